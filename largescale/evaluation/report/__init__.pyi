from .pages import write_report as write_report
from .pictures import Pictures as Pictures
