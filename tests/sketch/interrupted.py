"""A pass that somebody stops again and again."""

from gyrostat.sketch.passes import Watch


class StopAfter(Watch):
    """Asks to stop after so many blocks."""

    def __init__(self, blocks, folder):
        super().__init__(self.count, folder)
        self.left, self.seen = blocks, 0

    def count(self, _):
        self.seen += 1
        self.left -= 1
        self.stop = self.left == 0


def until_done(call, folder, blocks):
    """What ``call(progress=)`` returns in the end, stopped after every ``blocks`` blocks, and how often it was stopped."""
    stops = 0
    while True:
        try:
            return call(progress=StopAfter(blocks, folder)), stops
        except KeyboardInterrupt:
            stops += 1
            assert folder.exists()
