"""Puts the shipped models into wheels; everything else is in pyproject.toml.

colcon ignores this file: package.xml says ament_cmake (see CMakeLists.txt).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithModels(build_py):
    """Copies models/ to fassst_ros/models in the wheel; a checkout uses models/ itself."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for source in sorted(Path("models").glob("*")):
            if source.suffix in (".onnx", ".json", ".safetensors", ".md"):
                target = Path(self.build_lib, "fassst_ros", "models", source.name)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithModels})
