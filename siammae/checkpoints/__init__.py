"""Where weights come from: ``hub`` (bundled, folder, Hub; safetensors) and ``known_models``, a list of public ones."""
