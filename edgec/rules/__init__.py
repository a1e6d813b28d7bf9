"""Rules: patterns of nodes, conditions on them, and what stands there instead; read from `*.rules`, checked and proved."""
