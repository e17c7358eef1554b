from .app import create_app as create_app
from .gate import Limits as Limits
from .running import serve as serve
from .service import VoiceService as VoiceService
