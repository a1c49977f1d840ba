"""The filesystem of a URI: local, S3 or Google Cloud Storage, with the time limits and retries that long runs need."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import lru_cache
from typing import Any

from pyarrow import fs

from dataengine.store.errors import StoreError

REMOTE = ("s3://", "gs://", "gcs://")

CLIENT_ATTEMPTS = 8
"""How often the client itself repeats a request that failed with 5xx, SlowDown, a time limit or a broken connection."""
CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 10.0
"""A request that passes no byte for so long is given up and repeated. On Linux, pyarrow's `request_timeout` is that."""
GCS_RETRY_S = 120
"""How long the Google client repeats a failing request. It has no setting for a count."""


def filesystem_of(uri: str) -> tuple[Any, str]:
    """pyarrow's filesystem of a local path or a URI, and the path in it.

    What follows the bucket is taken as it is: no percent-decoding, no query, so that every object's name can be given.
    Credentials, region and endpoint come from where the vendors' own tools look: the environment (`AWS_*`,
    `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, `STORAGE_EMULATOR_HOST`), configuration files, the machine.
    Raises `StoreError` for a URI without a bucket or with credentials in it.
    """
    if not uri.startswith(REMOTE):
        return fs.LocalFileSystem(), uri
    scheme, _, path = uri.partition("://")
    bucket = path.split("/", 1)[0]
    if "@" in bucket or ":" in bucket:
        # Not repeated here: what stands there may be a secret.
        raise StoreError(
            f"a {scheme}:// URI holds more than a bucket and a path: give credentials by environment variables or a "
            "configuration file, and an endpoint by AWS_ENDPOINT_URL"
        )
    if not bucket:
        raise StoreError(f"{uri}: names no bucket: write {scheme}://BUCKET/FOLDER")
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        return _s3(bucket, endpoint, region), path
    emulator = os.environ.get("STORAGE_EMULATOR_HOST") or os.environ.get("CLOUD_STORAGE_EMULATOR_ENDPOINT") or ""
    return _gcs(emulator), path


@lru_cache(maxsize=64)
def _s3(bucket: str, endpoint: str, region: str) -> fs.S3FileSystem:
    scheme, _, host = endpoint.rpartition("://")
    return fs.S3FileSystem(
        region=region or ("us-east-1" if endpoint else _region(bucket)),
        endpoint_override=host or None,
        scheme=scheme or "https",
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=SILENCE_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=CLIENT_ATTEMPTS),
        # A small object is then one request instead of the three of a multipart upload.
        allow_delayed_open=True,
        # Part after part: in the background, all parts of a file would be copied into memory at once.
        background_writes=False,
    )


def _region(bucket: str) -> str | None:
    try:
        return fs.resolve_s3_region(bucket)
    except OSError:
        return None  # no such bucket, or no way there: the first request says it better


@lru_cache(maxsize=1)
def _gcs(emulator: str) -> fs.GcsFileSystem:
    limit = timedelta(seconds=GCS_RETRY_S)
    if not emulator:
        return fs.GcsFileSystem(retry_time_limit=limit)
    scheme, _, host = emulator.rpartition("://")
    return fs.GcsFileSystem(
        anonymous=True, endpoint_override=host.rstrip("/"), scheme=scheme or "http", retry_time_limit=limit
    )
