"""Where weights come from.

``hub`` finds them (in the package, a folder, on the Hub), ``tensors`` reads and checks safetensors, ``known_models``
lists public ones.
"""
