"""A catalogue of bad inputs: what each is, what is asked of it, what must be said.

``pytest tests/test_bad_inputs.py`` runs every entry; ``--collect-only -q`` counts them.
"""

from tests.bad_inputs.archives import ARCHIVES
from tests.bad_inputs.arguments import ARGUMENTS
from tests.bad_inputs.bundles import BUNDLES
from tests.bad_inputs.checks import CHECKS
from tests.bad_inputs.clinic import CLINIC
from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.images import IMAGES
from tests.bad_inputs.models import MODELS
from tests.bad_inputs.reports import REPORTS
from tests.bad_inputs.sources import SOURCES
from tests.bad_inputs.tables import TABLES, TEXTS
from tests.bad_inputs.tunings import TUNINGS
from tests.bad_inputs.volumes import VOLUMES
from tests.bad_inputs.workspaces import WORKSPACES

__all__ = ["CATALOGUE", "BadInput"]

CATALOGUE: tuple[BadInput, ...] = (
    *SOURCES,
    *IMAGES,
    *ARCHIVES,
    *TABLES,
    *TEXTS,
    *VOLUMES,
    *CLINIC,
    *WORKSPACES,
    *MODELS,
    *TUNINGS,
    *REPORTS,
    *CHECKS,
    *ARGUMENTS,
    *BUNDLES,
)
