"""The contract: all that a plugin may import, and nothing else of ours.

The interfaces (Encoder, Connector, LanguageModel, ConversationTemplate, DataSource, Benchmark), the data that passes between
rooms (Sample, Segment, TileGrid, SplicePlan), and the hooks by which a plugin is found. Imports only `llava_kit.errors`.
"""
