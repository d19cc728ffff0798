"""The file formats of labelling tools, one module each with one ``Format``.

``format`` says what a format is, ``registry`` lists them, ``guards`` refuses files that lie, ``rle`` and ``polygons``
are what several formats share.
"""
