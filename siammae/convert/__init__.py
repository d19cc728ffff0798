"""Other people's checkpoints to ours: names and shapes, never silently, and no code from a file ever runs.

``reading`` opens the file and finds the weights in it, ``families`` says what each public family calls its tensors,
``conversion`` puts the two together.
"""

from siammae.convert.conversion import ConversionReport, convert_checkpoint

__all__ = ["ConversionReport", "convert_checkpoint"]
