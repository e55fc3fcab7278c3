"""Starts the segmentation node: ros2 launch fassst_ros segment.launch.py image:=/camera/image_raw."""

import os
import tempfile

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

SHARE = get_package_share_directory("fassst_ros")
CONFIG = os.path.join(SHARE, "config")
NAME = "segment_node"
#: Where Fast DDS 2 (up to Jazzy) and Fast DDS 3 find their profiles.
FASTDDS_2, FASTDDS_3 = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"

ARGUMENTS = (
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its topics"),
    DeclareLaunchArgument(
        "params_file",
        default_value=os.path.join(CONFIG, "segment.yaml"),
        description="YAML file with the parameters of the node",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="model file (.onnx) or name of a shipped model; empty: as params_file says",
    ),
    DeclareLaunchArgument(
        "image",
        default_value="image",
        description="camera topic, sensor_msgs/Image or CompressedImage; replaces `image` of the node",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", "true", "false"],
        description="take the time from /clock (simulation, bags); empty: as params_file says",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="configure and activate the node; false: `ros2 lifecycle set` does it",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="least severity of the messages shown",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=["true", "false"],
        description="start rviz2 with camera, overlay, instance map and markers",
    ),
    DeclareLaunchArgument(
        "frame",
        default_value="",
        description="frame_id of the camera's images, for the markers in rviz2; empty: as in segment.rviz",
    ),
    DeclareLaunchArgument(
        "view",
        default_value="false",
        choices=["true", "false"],
        description="serve a page for the browser with overlay and numbers",
    ),
    DeclareLaunchArgument("view_port", default_value="8090", description="TCP port of that page"),
    DeclareLaunchArgument(
        "view_host",
        default_value="127.0.0.1",
        description="address of that page; 0.0.0.0: anyone who reaches the port sees the cameras",
    ),
)


def dds_environment() -> dict[str, str]:
    """The Fast DDS profile for large images, unless the user has chosen one. Other DDS ignore it."""
    if os.environ.get(FASTDDS_2) or os.environ.get(FASTDDS_3):
        return {}
    # Never both: Fast DDS 3 reads both, and the second reading fails.
    name = FASTDDS_2 if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else FASTDDS_3
    return {name: os.path.join(CONFIG, "fastdds_large_images.xml")}


def absolute(namespace: str, name: str) -> str:
    """The full name of a node or topic in a namespace."""
    return name if name.startswith("/") else "/" + "/".join(filter(None, [namespace.strip("/"), name]))


def rviz_config(namespace: str, image: str, frame: str) -> str:
    """Path of a copy of segment.rviz with the names of this launch.

    Not by remapping: rviz2 chooses the image transport by the name of the topic as it is written.
    """
    with open(os.path.join(CONFIG, "segment.rviz"), encoding="utf-8") as file:
        text = file.read()
    text = text.replace("/segment_node/", f"{absolute(namespace, NAME)}/")
    text = text.replace("Value: /camera/image_raw", f"Value: {absolute(namespace, image)}")
    if frame:
        text = text.replace("Fixed Frame: camera", f"Fixed Frame: {frame}")
    with tempfile.NamedTemporaryFile("w", prefix="fassst_ros_", suffix=".rviz", delete=False) as copy:
        copy.write(text)
    return copy.name


def make_nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, and rviz2 and the page if asked for; now the values of the arguments are known."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    # Only what was given on the command line goes before the values of params_file.
    overrides: dict[str, str | bool] = {"autostart": given["autostart"] == "true"}
    if given["model"]:
        overrides["model"] = given["model"]
    if given["use_sim_time"]:
        overrides["use_sim_time"] = given["use_sim_time"] == "true"
    environment = dds_environment()

    # A LifecycleNode, so that a launch file which includes this one can use OnStateTransition. The
    # node starts itself: events of launch could be missed, and Humble has no LifecycleTransition.
    segment = LifecycleNode(
        package="fassst_ros",
        executable="segment_node",
        name=NAME,
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        remappings=[("image", given["image"])],
        ros_arguments=["--log-level", given["log_level"]],
        additional_env=environment,
        output="screen",
        emulate_tty=True,
    )
    nodes: list[LaunchDescriptionEntity] = [segment]
    if given["rviz"] == "true":
        rviz = Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", rviz_config(given["namespace"], given["image"], given["frame"])],
            parameters=[{"use_sim_time": given["use_sim_time"] == "true"}],
            additional_env=environment,
        )
        nodes.append(rviz)
    if given["view"] == "true":
        name = absolute(given["namespace"], NAME)
        view = Node(
            package="fassst_ros",
            executable="view_node",
            namespace=given["namespace"],
            arguments=["--node", name, "--port", given["view_port"], "--host", given["view_host"]],
            additional_env=environment,
            output="screen",
            emulate_tty=True,
        )
        nodes.append(view)
    return nodes


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` runs."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=make_nodes)])
