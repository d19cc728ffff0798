"""C++ compiled when the package is installed: ``build``, ``library`` (what was built), ``affinity``, ``attention``."""
