"""A connector for llava_kit that speaks up: `connector: {type: shout, volume: 3}`."""

from llava_kit import Options, hookimpl


class ShoutOptions(Options):
    """Two linear layers, then everything louder."""

    volume: float = 2.0


def build_shout(options, *, vision_width, text_width, grid):
    from .connector import ShoutConnector  # torch is imported here: listing plugins stays fast

    return ShoutConnector(vision_width, text_width, options.volume)


@hookimpl
def register_connectors(register):
    register("shout", options=ShoutOptions, build=build_shout)
