"""The order of the gallery: that in which a newcomer reads."""

_NAMES = (
    "features_as_colours",
    "follow_masks",
    "correct_a_frame",
    "several_annotated_frames",
    "follow_keypoints",
    "body_parts",
    "live",
    "other_tools_formats",
    "attention_and_matches",
    "reconstruction",
    "features_in_scikit_learn",
    "another_network",
    "score_your_results",
)


class ReadingOrder:
    """Sort key of sphinx-gallery; a script that is not named here is an error, so that none comes by chance."""

    def __init__(self, src_dir: str) -> None:
        self.src_dir = src_dir

    def __call__(self, filename: str) -> int:
        """Return the place of a script."""
        return _NAMES.index(filename.removesuffix(".py"))
