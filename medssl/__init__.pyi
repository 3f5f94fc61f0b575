from medssl.api.encoder import Encoder as Encoder
from medssl.api.encoder import Transform as Transform
from medssl.api.encoder import load as load
from medssl.api.results import Study as Study
from medssl.core.errors import MedsslError as MedsslError

__version__: str
__all__ = ["Encoder", "MedsslError", "Study", "Transform", "__version__", "load"]
