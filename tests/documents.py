"""Reading large YAML documents, which the reader in Python takes a tenth of a second for each page of."""

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The fast one, where libyaml is there."""
