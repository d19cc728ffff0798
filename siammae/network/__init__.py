"""The network: ``model`` (what users call), ``vit`` (its encoder); ``loading`` finds one by name.

``timm_extractor`` lets ViTs of timm take its place, ``attention`` and ``reconstruction`` look inside, ``cpu_layers``
are the faster layers for CPUs. What pretraining adds: ``pretraining_model``, ``masking``, ``decoder``, ``loss``.
"""
