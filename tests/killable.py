"A command that is killed at one of its steps: a module of its own, because every process that runs one imports it."

import os, signal


def child(words, steps, last):
    "Run a command; kill -9 it before a renaming or removal, the `last` one of them."
    from recsys_nb.command.cli import main

    def dying(do):
        def step(*a, **k):
            steps.value += 1
            if steps.value == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*a, **k)

        return step

    for name in ('rename', 'replace', 'unlink', 'rmdir'):
        setattr(os, name, dying(getattr(os, name)))
    os.environ['RECSYS_DEBUG'] = '1'
    main(words)
