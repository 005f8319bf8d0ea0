"""The measured scan that is shipped: Au 111, APS 34-ID-C, see the licence beside it."""

from pathlib import Path


def example_scan() -> Path:
    """The file of the shipped scan."""
    return Path(__file__).with_name("aps_34idc_S0054.h5")


def example_flatfield() -> str:
    """The white field of the same detector region, as `FILE::DATASET`; the counts have not been divided by it."""
    return f"{example_scan()}::entry/instrument/detector/whitefield"
