"""Say whether what runs in this container is well: exit code 0, or 1 and why. The HEALTHCHECK of docker/Dockerfile.

A server is well if the page that HEALTH_URL names answers. Preprocessing, training and evaluation have no page and end
when something is wrong: that they run is all there is to know.
"""

import http.client
import os
import sys
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5


def complaint(url: str) -> str | None:
    """What is wrong with the server that shall answer at `url`, http://HOST:PORT/PATH; None if nothing is."""
    address = urlsplit(url)
    try:
        connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT_SECONDS)
        connection.request("GET", address.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"
    return None if status == http.HTTPStatus.OK else f"{url} answers with status {status}"


if __name__ == "__main__":
    url = os.environ.get("HEALTH_URL")
    sys.exit(complaint(url) if url else None)
