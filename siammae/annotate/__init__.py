"""A page to annotate video: draw on a frame, follow, correct, export. The command ``siammae annotate`` opens it.

In the order of the data: ``opening`` and ``project`` (what is kept on disk, by ``files`` and ``identity``), ``tracks``
(what is followed from where, and what a correction makes stale), ``editing`` (what a person does to a frame),
``following`` (the thread that follows, and ``walks``, the frames that it takes), ``attention`` (where to look next),
``exporting``, ``pictures`` (frames for the browser), ``session`` (all of it together), ``server`` with ``security`` and
``events``. ``page/`` is what the browser runs.
"""
