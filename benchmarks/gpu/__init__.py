"""Rows G1-G6 of the scoreboard: what is measured on a GPU. `make gpu` runs them; docs/gpu.md says how."""
