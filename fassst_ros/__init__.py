"""Real-time instance segmentation for ROS 2 (FASSST and peers)."""

# rosidl generates a package of the same name for our messages. Extending the path lets a
# checkout or `pip install -e .` and a sourced colcon overlay live in one environment.
__path__ = __import__("pkgutil").extend_path(__path__, __name__)

__version__ = "0.1.0"
