// The decoder on the message types that rosidl generates for C++, as a planner's rclcpp node has them.
// Prints the area that it decodes; test_decode_cpp.py compares it.

#include <iostream>

#include "fassst_ros/decode.hpp"
#include "fassst_ros/msg/instance_array.hpp"

int main()
{
  fassst_ros::msg::InstanceArray array;
  array.width = 8;
  array.height = 4;
  array.instances.resize(1);
  auto & instance = array.instances[0];
  instance.id = 1;
  instance.class_id = 3;
  instance.mask.x = 2;
  instance.mask.y = 1;
  instance.mask.width = 3;
  instance.mask.height = 2;
  instance.mask.counts = {1, 2, 1, 2};  // .XX / .XX
  const auto map = fassst_ros::class_map(array);
  std::cout << fassst_ros::area(instance.mask) << " " << +map.at(3, 1) << " " << +map.at(2, 1) << " "
            << fassst_ros::contains(instance.mask, 4, 2) << "\n";
  return 0;
}
