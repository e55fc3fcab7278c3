// Reads one serialised InstanceArray and writes what the headers make of it, for test_decode_cpp.py.
//
// decode_test MESSAGE OUT: fields to standard output, one JSON object a line; to OUT the dense masks
// (uint8, one an instance), then instance map (uint16, this machine's byte order) and class map (uint8).
// Exit status 3 and the reason on standard error for a message that cannot be decoded.

#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "fassst_ros/cdr.hpp"
#include "fassst_ros/decode.hpp"

namespace
{

template<typename T>
void write(std::ofstream & out, const fassst_ros::Image<T> & image)
{
  out.write(
    reinterpret_cast<const char *>(image.data.data()),
    static_cast<std::streamsize>(image.data.size() * sizeof(T)));
}

/// Every pixel once more through `contains`, against the dense mask.
template<typename Mask>
bool contains_agrees(const Mask & mask, const fassst_ros::Image<std::uint8_t> & dense)
{
  for (std::uint32_t v = 0; v < dense.height; ++v) {
    for (std::uint32_t u = 0; u < dense.width; ++u) {
      if (fassst_ros::contains(mask, u, v) != (dense.at(u, v) != 0)) {
        return false;
      }
    }
  }
  return !fassst_ros::contains(mask, dense.width, 0) && !fassst_ros::contains(mask, 0, dense.height);
}

void print(const fassst_ros::cdr::Instance & instance, const fassst_ros::Image<std::uint8_t> & dense)
{
  const auto & mask = instance.mask;
  std::cout << "{\"id\": " << instance.id << ", \"track_id\": " << instance.track_id
            << ", \"class_id\": " << instance.class_id << ", \"class_name\": \"" << instance.class_name
            << "\", \"score\": " << instance.score << ", \"box\": [" << instance.x_min << ", "
            << instance.y_min << ", " << instance.x_max << ", " << instance.y_max << "], \"area\": "
            << fassst_ros::area(mask) << ", \"bounds\": ";
  if (const auto roi = fassst_ros::bounds(mask)) {
    std::cout << "[" << roi->x << ", " << roi->y << ", " << roi->width << ", " << roi->height << "]";
  } else {
    std::cout << "null";
  }
  std::cout << ", \"contains_agrees\": " << (contains_agrees(mask, dense) ? "true" : "false") << "}\n";
}

}  // namespace

int main(int argc, char ** argv)
{
  if (argc != 3) {
    std::cerr << "usage: decode_test MESSAGE OUT\n";
    return 2;
  }
  std::ifstream in(argv[1], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  std::ofstream out(argv[2], std::ios::binary);
  std::cout.precision(9);  // enough for every float to come back the same
  try {
    const auto array = fassst_ros::cdr::read_instance_array(
      reinterpret_cast<const std::uint8_t *>(bytes.data()), bytes.size());
    std::cout << "{\"sec\": " << array.header.sec << ", \"nanosec\": " << array.header.nanosec
              << ", \"frame_id\": \"" << array.header.frame_id << "\", \"height\": " << array.height
              << ", \"width\": " << array.width << ", \"model\": \"" << array.model << "\"}\n";
    for (const auto & instance : array.instances) {
      const auto dense = fassst_ros::dense(instance.mask, array.width, array.height, 1);
      print(instance, dense);
      write(out, dense);
    }
    write(out, fassst_ros::instance_map(array));
    write(out, fassst_ros::class_map(array));
  } catch (const fassst_ros::DecodeError & error) {
    std::cerr << "DecodeError: " << error.what() << "\n";
    return 3;
  }
  return 0;
}
