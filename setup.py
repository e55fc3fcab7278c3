"""Puts the shipped models and the message definitions into wheels; everything else is in pyproject.toml.

colcon ignores this file: package.xml says ament_cmake (see CMakeLists.txt).
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

#: Folder of the checkout -> (folder in the package, suffixes). Not "msg": that is what ROS makes of them.
DATA = {
    "models": ("models", (".onnx", ".json", ".safetensors", ".md")),
    "msg": ("message_definitions", (".msg",)),
}


class BuildWithData(build_py):
    """Copies DATA into the package of the wheel; a checkout uses its folders themselves."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for folder, (name, suffixes) in DATA.items():
            for source in sorted(Path(folder).glob("*")):
                if source.suffix in suffixes:
                    target = Path(self.build_lib, "fassst_ros", name, source.name)
                    self.mkpath(str(target.parent))
                    self.copy_file(str(source), str(target))


setup(cmdclass={"build_py": BuildWithData})
