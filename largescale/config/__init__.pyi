from .help import asked as asked
from .help import chosen as chosen
from .help import explain as explain
from .keys import walk as walk
from .loading import check as check
from .loading import load as load
from .loading import read_yaml as read_yaml
from .loading import to_yaml as to_yaml
