"""Files under a URI: a local folder or ``s3://bucket/prefix``. Knows neither PyTorch nor Ray.

- `filesystem(uri)`: a pyarrow filesystem, for reading data and for Ray's own files;
- `open_store(uri)`: an `ObjectStore`, for what must survive a flaky server (checkpoints, leases);
- `local_copy(uri)`: one file on this machine, fetched where it is remote;
- `check_writable(uri)`: a `ConfigError` within seconds where nothing can be written.

S3 is configured by the environment alone: ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``,
``AWS_REGION``, and the usual AWS credentials; without credentials a bucket is read anonymously.
"""

from itpn_ray.storage.base import ObjectStore
from itpn_ray.storage.copies import local_copy
from itpn_ray.storage.uri import check_writable, filesystem, is_s3, join, open_store

__all__ = [
    "ObjectStore",
    "check_writable",
    "filesystem",
    "is_s3",
    "join",
    "local_copy",
    "open_store",
]
