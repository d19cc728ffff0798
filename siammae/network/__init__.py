"""The network: ``model`` (what users call), ``vit``, then what pretraining adds: ``masking``, ``loss``, ``cropmae``.

``timm_extractor`` lets ViTs of timm take its place; ``attention`` and ``reconstruction`` look inside;
``cpu_layers`` are the faster layers for CPUs.
"""
