"""The interactive views of the notebooks, in plain ipywidgets and matplotlib."""

from .deploy import DeployPanel
from .explore import SIDE, UPLOADS, Explorer, Settings, View

__all__ = ["SIDE", "UPLOADS", "DeployPanel", "Explorer", "Settings", "View"]
