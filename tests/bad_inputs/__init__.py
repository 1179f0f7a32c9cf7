"""A catalogue of bad inputs: what each is, what is asked of it, what must be said.

``pytest tests/test_bad_inputs.py`` runs every entry; ``--collect-only -q`` counts them.
"""

from bad_inputs.archives import ARCHIVES
from bad_inputs.arguments import ARGUMENTS
from bad_inputs.bundles import BUNDLES
from bad_inputs.checks import CHECKS
from bad_inputs.entry import BadInput
from bad_inputs.images import IMAGES
from bad_inputs.models import MODELS
from bad_inputs.reports import REPORTS
from bad_inputs.sources import SOURCES
from bad_inputs.tables import TABLES, TEXTS
from bad_inputs.tunings import TUNINGS
from bad_inputs.volumes import VOLUMES
from bad_inputs.workspaces import WORKSPACES

__all__ = ["CATALOGUE", "BadInput"]

CATALOGUE: tuple[BadInput, ...] = (
    *SOURCES,
    *IMAGES,
    *ARCHIVES,
    *TABLES,
    *TEXTS,
    *VOLUMES,
    *WORKSPACES,
    *MODELS,
    *TUNINGS,
    *REPORTS,
    *CHECKS,
    *ARGUMENTS,
    *BUNDLES,
)
