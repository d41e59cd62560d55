"""Turn a wheel of pillow-simd into a wheel of the distribution `pillow`.

torchvision, mlflow and matplotlib require the distribution `pillow`; pillow-simd ships the same package `PIL` under
another distribution name. Installed side by side the two overwrite each other's files. Under pillow's own name, with a
local version that says what it is, pillow-simd satisfies every requirement, `pip check` stays clean, and a later
upgrade replaces it as a whole.

    python launch/pillow_simd.py pillow_simd-12.1.1.post0-cp311-cp311-linux_x86_64.whl OUT_FOLDER LOCAL_VERSION

prints the path of the new wheel. Only the metadata changes; every module and library is copied as it is.
"""

import base64
import csv
import hashlib
import io
import re
import sys
import zipfile
from pathlib import Path

OLD_NAME, NEW_NAME = "pillow_simd", "pillow"


def retag(wheel: Path, folder: Path, local: str) -> Path:
    """Write the re-tagged wheel into `folder` and return its path.

    Raises ValueError if `wheel` is not named as a wheel of pillow-simd.
    """
    match = re.fullmatch(rf"{OLD_NAME}-(?P<version>[^-]+)-(?P<tags>.+)\.whl", wheel.name)
    if match is None:
        raise ValueError(f"{wheel}: expected a wheel named {OLD_NAME}-VERSION-TAGS.whl")
    version = f"{match['version']}+{local}"
    old_info = f"{OLD_NAME}-{match['version']}.dist-info/"
    new_info = f"{NEW_NAME}-{version}.dist-info/"
    target = folder / f"{NEW_NAME}-{version}-{match['tags']}.whl"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as output:
        for member in source.infolist():
            data = source.read(member)
            name = member.filename.replace(old_info, new_info)
            if name == f"{new_info}RECORD":
                continue
            if name == f"{new_info}METADATA":
                data = _renamed(data, version)
            output.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.writerow([name, f"sha256={digest}", len(data)])
        rows.writerow([f"{new_info}RECORD", "", ""])
        output.writestr(f"{new_info}RECORD", record.getvalue())
    return target


def _renamed(metadata: bytes, version: str) -> bytes:
    head, separator, body = metadata.decode().partition("\n\n")
    head = re.sub(r"(?m)^Name: .*$", f"Name: {NEW_NAME}", head)
    head = re.sub(r"(?m)^Version: .*$", f"Version: {version}", head)
    return (head + separator + body).encode()


if __name__ == "__main__":
    print(retag(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
