// What a click on a card or a chip does: two cards are compared here, everything else is asked of the server.
element.addEventListener('click', e => {
  const b = e.target.closest('[data-do]')
  if (!b) return
  if (b.dataset.do != 'compare') return trigger('select', {do: b.dataset.do, id: b.dataset.id})
  b.setAttribute('aria-pressed', b.closest('.rs-card').classList.toggle('rs-picked'))
  const two = element.querySelectorAll('.rs-picked').length > 1
  element.querySelector('.rs-cards').classList.toggle('rs-two', two)
})
