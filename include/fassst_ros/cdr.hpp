// Reads a serialised fassst_ros/InstanceArray (CDR, as DDS and rosbag2 carry it): header-only, C++17,
// no dependency, no ROS. For planners and tools that take bytes from a bag or from DDS directly; with
// ROS, rclcpp fills fassst_ros::msg::InstanceArray itself and only decode.hpp is needed.
//
// Encapsulations CDR_LE and CDR_BE (XCDR version 1, what every ROS 2 middleware writes) on a host of
// either byte order. Lengths are checked against the bytes left before memory is reserved.

#ifndef FASSST_ROS__CDR_HPP_
#define FASSST_ROS__CDR_HPP_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "fassst_ros/decode.hpp"

namespace fassst_ros::cdr
{

struct Header
{
  std::int32_t sec = 0;
  std::uint32_t nanosec = 0;
  std::string frame_id;
};

struct Mask
{
  std::uint32_t x = 0;
  std::uint32_t y = 0;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::vector<std::uint32_t> counts;
};

struct Instance
{
  std::uint32_t id = 0;
  std::uint32_t track_id = 0;
  std::uint16_t class_id = 0;
  std::string class_name;
  float score = 0;
  float x_min = 0;
  float y_min = 0;
  float x_max = 0;
  float y_max = 0;
  Mask mask;
};

struct InstanceArray
{
  Header header;
  std::uint32_t height = 0;
  std::uint32_t width = 0;
  std::string model;
  std::vector<Instance> instances;
};

/// Takes primitive values off a CDR buffer; throws DecodeError instead of reading beyond its end.
class Reader
{
public:
  /// `data` stays the caller's and must outlive the reader. Reads the 4 bytes of encapsulation.
  Reader(const std::uint8_t * data, std::size_t size)
  : data_(data), size_(size)
  {
    if (size_ < 4 || data_[0] != 0 || data_[1] > 1) {
      throw DecodeError("no CDR_BE or CDR_LE encapsulation (00 00 or 00 01) at the start of the message");
    }
    const std::uint16_t one = 1;
    std::uint8_t first;
    std::memcpy(&first, &one, 1);
    swap_ = (data_[1] == 1) != (first == 1);
  }

  /// One number of 2 or 4 bytes, aligned to its size counted from the end of the encapsulation.
  template<typename T>
  T number()
  {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "the messages hold no other sizes");
    const std::size_t offset = position_ - 4;
    position_ += (sizeof(T) - offset % sizeof(T)) % sizeof(T);
    need(sizeof(T));
    std::uint8_t bytes[sizeof(T)];
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      bytes[i] = data_[position_ + (swap_ ? sizeof(T) - 1 - i : i)];
    }
    position_ += sizeof(T);
    T value;
    std::memcpy(&value, bytes, sizeof(T));
    return value;
  }

  /// A string: length with the final NUL, then the characters.
  std::string string()
  {
    const auto length = number<std::uint32_t>();
    need(length);
    if (length == 0 || data_[position_ + length - 1] != 0) {
      throw DecodeError("string at byte " + std::to_string(position_) + " does not end with NUL");
    }
    const auto * begin = reinterpret_cast<const char *>(data_ + position_);
    position_ += length;
    return std::string(begin, length - 1);
  }

  /// The length of a sequence whose elements take `least` bytes or more each.
  std::uint32_t length(std::size_t least)
  {
    const auto count = number<std::uint32_t>();
    if (count > (size_ - position_) / least) {
      throw DecodeError(
              "sequence of " + std::to_string(count) + " elements at byte " + std::to_string(position_) +
              " is longer than the message");
    }
    return count;
  }

private:
  void need(std::size_t count) const
  {
    if (position_ > size_ || count > size_ - position_) {
      throw DecodeError(
              "message of " + std::to_string(size_) + " bytes ends early: " + std::to_string(count) +
              " more expected at byte " + std::to_string(position_));
    }
  }

  const std::uint8_t * data_;
  std::size_t size_;
  std::size_t position_ = 4;
  bool swap_ = false;
};

/// One fassst_ros/Mask.
inline Mask read_mask(Reader & in)
{
  Mask mask;
  mask.x = in.number<std::uint32_t>();
  mask.y = in.number<std::uint32_t>();
  mask.width = in.number<std::uint32_t>();
  mask.height = in.number<std::uint32_t>();
  mask.counts.resize(in.length(sizeof(std::uint32_t)));
  for (auto & count : mask.counts) {
    count = in.number<std::uint32_t>();
  }
  return mask;
}

/// One fassst_ros/Instance.
inline Instance read_instance(Reader & in)
{
  Instance instance;
  instance.id = in.number<std::uint32_t>();
  instance.track_id = in.number<std::uint32_t>();
  instance.class_id = in.number<std::uint16_t>();
  instance.class_name = in.string();
  instance.score = in.number<float>();
  instance.x_min = in.number<float>();
  instance.y_min = in.number<float>();
  instance.x_max = in.number<float>();
  instance.y_max = in.number<float>();
  instance.mask = read_mask(in);
  return instance;
}

/// A whole serialised fassst_ros/InstanceArray, encapsulation included.
///
/// Throws DecodeError for bytes that are none. Masks are not yet checked: `dense`, `instance_map` and
/// `class_map` of decode.hpp do that, or call `validate`.
inline InstanceArray read_instance_array(const std::uint8_t * data, std::size_t size)
{
  constexpr std::size_t kLeastInstance = 60;  // empty name and mask
  Reader in(data, size);
  InstanceArray array;
  array.header.sec = in.number<std::int32_t>();
  array.header.nanosec = in.number<std::uint32_t>();
  array.header.frame_id = in.string();
  array.height = in.number<std::uint32_t>();
  array.width = in.number<std::uint32_t>();
  array.model = in.string();
  const std::uint32_t count = in.length(kLeastInstance);
  array.instances.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    array.instances.push_back(read_instance(in));
  }
  return array;
}

}  // namespace fassst_ros::cdr

#endif  // FASSST_ROS__CDR_HPP_
