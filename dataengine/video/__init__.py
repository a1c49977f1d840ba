"""Video files in and out: probe, exact frames by presentation time, constant-rate H.264 clips.

Time. Every time is in seconds of *presentation time*, a float, counted from the stream's first displayed frame: what
a player shows at its 0:00, whatever the file's start time, edit list or frame order. A frame stays on screen from its
own time until the next frame's, so the frame *at* t is the last one whose time is <= t. Times are compared with a
slack of 1 µs, so a time that went through JSON with six decimals still names the same frame. Spans are half open,
[start_s, end_s): neighbouring spans tile a video. Frame numbers are never used: on variable frame rate they name
different frames in different readers.

Pixels. Frames are rgb uint8 (H, W, 3), upright (the display matrix is applied), with square pixels, in SDR:
BT.601/709/2020 matrices and ranges as tagged (untagged: 709 from 720 lines up, else 601, as players do), 10 and 12
bit rounded to 8, PQ and HLG tone mapped (`hdr`). Interlaced material is not deinterlaced.

Trust. Files are untrusted: only known container formats are opened (a playlist named .mp4 would make FFmpeg open
other files and addresses), sizes are bounded, and every loop is bounded by the file's packets.
"""

from dataengine.video.encode import cut_clip, decode_clip, encode_clip
from dataengine.video.errors import (
    EmptyFileError,
    KeyframeTooFarError,
    NotAVideoError,
    NoVideoStreamError,
    TooLargeError,
    TooShortError,
    TooSmallError,
    TruncatedVideoError,
    UndecodableError,
    UnreadableError,
    VideoError,
)
from dataengine.video.read import (
    MAX_FRAMES_TO_REACH,
    MAX_PIXELS,
    MIN_SIDE,
    Frame,
    OnError,
    Source,
    Video,
    VideoInfo,
    as_rate,
    frames_at,
    iter_frames,
    probe,
)

__all__ = [
    "MAX_FRAMES_TO_REACH",
    "MAX_PIXELS",
    "MIN_SIDE",
    "EmptyFileError",
    "Frame",
    "KeyframeTooFarError",
    "NoVideoStreamError",
    "NotAVideoError",
    "OnError",
    "Source",
    "TooLargeError",
    "TooShortError",
    "TooSmallError",
    "TruncatedVideoError",
    "UndecodableError",
    "UnreadableError",
    "Video",
    "VideoError",
    "VideoInfo",
    "as_rate",
    "cut_clip",
    "decode_clip",
    "encode_clip",
    "frames_at",
    "iter_frames",
    "probe",
]
