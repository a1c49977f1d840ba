"""What can be wrong with a video file; every message says what to do."""


class VideoError(Exception):
    """A video that cannot be used: what it is, what is wrong, and what to do."""

    def __init__(self, source: str, problem: str, remedy: str) -> None:
        super().__init__(source, problem, remedy)  # all three are args, so that Ray can pickle the error
        self.source, self.problem, self.remedy = source, problem, remedy

    def __str__(self) -> str:
        return f"{self.source}: {self.problem}. {self.remedy}."


class UnreadableError(VideoError):
    """The file is missing, a broken or looping link, not a regular file, or the system refuses to read it."""


class EmptyFileError(VideoError):
    """The file has no bytes."""


class NotAVideoError(VideoError):
    """The bytes are no known video container."""


class NoVideoStreamError(VideoError):
    """A media file without a video stream (sound only, or sound with a cover picture)."""


class TruncatedVideoError(VideoError):
    """The file ends before the video that its header promises."""


class UndecodableError(VideoError):
    """The video's packets cannot be decoded."""


class TooSmallError(VideoError):
    """The picture is smaller than MIN_SIDE."""


class TooLargeError(VideoError):
    """The picture is larger than MAX_PIXELS."""


class TooShortError(VideoError):
    """The video has a single frame."""


class KeyframeTooFarError(VideoError):
    """Reaching one frame would decode more than MAX_FRAMES_TO_REACH others."""
