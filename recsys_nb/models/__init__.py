"The two models, and what makes them fast."
from . import encoding # gives `DualEncoderSBERT` its `encode`
