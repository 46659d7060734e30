"""What a run is: the typed recipe, how it is read from YAML, and how its mistakes are told. Imports core and registry."""
