"""The handlers of all routes, made once for a server."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_core.api.clouds.kserve import KServeRoutes
from tgi_core.api.clouds.sagemaker import SageMakerRoutes
from tgi_core.api.clouds.vertex import VertexRoutes
from tgi_core.api.docs import DocsRoutes
from tgi_core.api.generate.routes import GenerateRoutes
from tgi_core.api.openai.adapters import AdapterRoutes
from tgi_core.api.openai.manners import OPENAI, manners_of
from tgi_core.api.openai.models import ModelRoutes
from tgi_core.api.openai.routes import OpenAIRoutes
from tgi_core.api.operation import Operation
from tgi_core.api.ops import OpsRoutes
from tgi_core.api.options import HttpOptions
from tgi_core.api.service import Service
from tgi_core.api.tokenize import TokenizeRoutes


class Handlers:
    """One group of handlers for each part of the surface."""

    def __init__(
        self, service: Service, operations: Sequence[Operation], options: HttpOptions
    ) -> None:
        """`operations` are what the server's own documentation lists."""
        self.service = service
        self.tgi = GenerateRoutes(service)
        self.tokenize = TokenizeRoutes(service)
        self.openai = OpenAIRoutes(service, manners_of(options.compat))
        self.plain_openai = OpenAIRoutes(service, OPENAI)
        """What dialects of plugins go through."""
        self.models = ModelRoutes(service)
        self.adapters = AdapterRoutes(service, options.adapter_folder)
        self.sagemaker = SageMakerRoutes(self.tgi, self.openai)
        self.vertex = VertexRoutes(service)
        self.kserve = KServeRoutes(service)
        self.ops = OpsRoutes(service)
        self.docs = DocsRoutes(operations, options.compat)
