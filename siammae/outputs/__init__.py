"""How results are written: whole or not at all, by one run at a time, and never over what siammae did not write.

A command claims its outputs before it begins to work: :func:`claim_files` or :func:`claim_folder`. Both refuse what
cannot be written, what another run is writing, what is an input, and results that are there already unless they may be
overwritten. Files then get their names through :func:`whole`. In the order of use: ``claims``, ``locks`` (one run at a
time), ``temporary`` (names until a result is whole, and what is left of them after a kill), ``beside`` (writing in a
thread, while the work goes on).
"""

from siammae.outputs.beside import Beside
from siammae.outputs.claims import MARKER, WAY_OUT, ResultFolder, claim_files, claim_folder, hold_folder
from siammae.outputs.temporary import whole

__all__ = ["MARKER", "WAY_OUT", "Beside", "ResultFolder", "claim_files", "claim_folder", "hold_folder", "whole"]
