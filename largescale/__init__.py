"""largescale: distributed training, mining and evaluation of image-retrieval networks.

model = largescale.load("runs/first/model")
rows = model.embed(["a.jpg", "b.jpg"])
"""

import lazy_loader

from largescale.compiler import import_compiler_late
from largescale.processes import end_with_torchrun

end_with_torchrun()  # before the seconds in which torch is imported
import_compiler_late()
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
