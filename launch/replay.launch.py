"""Live replay: ros2 launch fassst_ros replay.launch.py bag:=drive. Report in out/live/."""

import os
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from fassst_ros.bag import ImageBag
from fassst_ros.processes import TRANSPORT, large_images

SHARE = get_package_share_directory("fassst_ros")
#: Topics of their own: another camera or node on this machine does not disturb the measurement.
NAMESPACE, NODE, CAMERA = "/replay", "segment_node", "/replay/camera"
MEASURE = "live_replay"

ARGUMENTS = (
    DeclareLaunchArgument("bag", description="folder of a bag with camera images, or an mcap file"),
    DeclareLaunchArgument("topic", default_value="", description="image topic in the bag, if it has several"),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="model file (.onnx) or name of a shipped model; empty: as params_file says",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=os.path.join(SHARE, "config", "segment.yaml"),
        description="YAML file with the parameters of the node",
    ),
    DeclareLaunchArgument(
        "rates", default_value="10,20,30", description="fixed rates for the latency, in Hz"
    ),
    DeclareLaunchArgument("seconds", default_value="5.0", description="time of each pass at a fixed rate"),
    DeclareLaunchArgument(
        "out", default_value="out/live", description="folder for report, numbers and results"
    ),
)


def make_processes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node as segment.launch.py starts it, and the process that measures it; it starts the player."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    with ImageBag(Path(given["bag"]), given["topic"]):  # before anything starts
        pass
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "segment.launch.py")),
        launch_arguments={
            "namespace": NAMESPACE,
            "image": CAMERA,
            "autostart": "false",  # the measuring process does it, and hears at once if it fails
            "model": given["model"],
            "params_file": given["params_file"],
        }.items(),
    )
    measure = ExecuteProcess(
        cmd=[
            *(sys.executable, "-u", "-m", "fassst_ros.ros.live", given["bag"]),
            *("--bag-topic", given["topic"], "--node", f"{NAMESPACE}/{NODE}", "--topic", CAMERA),
            *("--rates", given["rates"], "--seconds", given["seconds"], "--out", given["out"]),
        ],
        name=MEASURE,
        output="screen",
        sigterm_timeout="30",  # it writes what it has measured so far
    )
    return [segment, measure]


def on_exit(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """End all when the measuring process has ended; its failure, or the node's end, is that of the launch."""
    name = event.process_name.rpartition("-")[0]  # launch adds a number
    if context.is_shutdown or name not in (MEASURE, NODE):  # a viewer may be closed
        return []
    if name == MEASURE and event.returncode == 0:
        return [EmitEvent(event=Shutdown(reason="the replay is done"))]
    raise RuntimeError(f"{event.process_name} ended with status {event.returncode}")


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    profile = os.path.join(SHARE, "config", "fastdds_large_images.xml")
    chosen = any(os.environ.get(name) for name in TRANSPORT)
    transport = {} if chosen else large_images(profile)
    return LaunchDescription(
        [
            *ARGUMENTS,
            *(SetEnvironmentVariable(name, value) for name, value in transport.items()),
            RegisterEventHandler(OnProcessExit(on_exit=on_exit)),
            OpaqueFunction(function=make_processes),
        ]
    )
