from .comparison import write_comparison as write_comparison
from .pages import write_report as write_report
from .pictures import RankedPictures as RankedPictures
from .tables import mirror as mirror
