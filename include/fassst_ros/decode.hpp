// Reads the masks of fassst_ros messages: header-only, C++17, no dependency, no ROS.
//
// Every function is a template over the message type, so it takes what rosidl generates
// (fassst_ros::msg::Mask, ::InstanceArray), the structs of cdr.hpp, or any type with the same field
// names. Pixels are those of the source image: u to the right, v down, (0, 0) at the top left
// (REP-103 optical frame). The layout is described in docs/messages.md.
//
// Nothing in a message is trusted: a rectangle outside the image, or runs that do not fill the
// rectangle, throw DecodeError before memory is reserved or written.

#ifndef FASSST_ROS__DECODE_HPP_
#define FASSST_ROS__DECODE_HPP_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace fassst_ros
{

/// A message that breaks the rules of docs/messages.md.
class DecodeError : public std::runtime_error
{
public:
  using std::runtime_error::runtime_error;
};

/// Longest side of an image that is decoded; its area then fits 32 bits.
constexpr std::uint32_t kMaxSide = 65535;

/// A rectangle of pixels: columns [x, x + width), rows [y, y + height).
struct Roi
{
  std::uint32_t x = 0;
  std::uint32_t y = 0;
  std::uint32_t width = 0;
  std::uint32_t height = 0;
};

/// A row-major single-channel image.
template<typename T>
struct Image
{
  std::uint32_t width = 0;
  std::uint32_t height = 0;
  std::vector<T> data;

  T at(std::uint32_t u, std::uint32_t v) const
  {
    return data.at(static_cast<std::size_t>(v) * width + u);
  }
};

/// Throw DecodeError unless an image of this size is one that is decoded.
inline void validate_size(std::uint32_t image_width, std::uint32_t image_height)
{
  if (std::min(image_width, image_height) == 0 || std::max(image_width, image_height) > kMaxSide) {
    throw DecodeError(
            "image of " + std::to_string(image_width) + "x" + std::to_string(image_height) +
            " pixels; expected sides of 1 to " + std::to_string(kMaxSide));
  }
}

/// Throw DecodeError unless the mask lies in an image of this size and its runs fill its rectangle.
template<typename Mask>
void validate(const Mask & mask, std::uint32_t image_width, std::uint32_t image_height)
{
  validate_size(image_width, image_height);
  const auto text = [](std::uint64_t number) {return std::to_string(number);};
  const std::uint64_t right = std::uint64_t{mask.x} + mask.width;
  const std::uint64_t bottom = std::uint64_t{mask.y} + mask.height;
  if (right > image_width || bottom > image_height) {
    throw DecodeError(
            "mask rectangle x=" + text(mask.x) + " y=" + text(mask.y) + " " + text(mask.width) + "x" +
            text(mask.height) + " leaves the image " + text(image_width) + "x" + text(image_height));
  }
  const std::uint64_t expected = std::uint64_t{mask.width} * mask.height;
  std::uint64_t total = 0;
  for (const std::uint32_t count : mask.counts) {
    total += count;  // 2^32 runs of 2^32 pixels still fit 64 bits
  }
  if (total != expected) {
    throw DecodeError(
            "mask runs add up to " + text(total) + " pixels; expected " + text(mask.width) + " x " +
            text(mask.height) + " = " + text(expected));
  }
}

/// Call visit(v, u_begin, u_end) for each horizontal span of set pixels, top to bottom, left to right.
///
/// The quickest way to use a mask: no pixel is touched. The mask must be valid (`validate`); runs
/// beyond its rectangle are ignored.
template<typename Mask, typename Visit>
void for_each_span(const Mask & mask, Visit visit)
{
  const std::uint64_t width = mask.width;
  const std::uint64_t area = width * mask.height;
  std::uint64_t begin = 0;
  bool set = false;
  for (const std::uint32_t count : mask.counts) {
    const std::uint64_t end = std::min(begin + count, area);
    while (set && begin < end) {  // a run may go over the end of rows
      const std::uint64_t row = begin / width;
      const std::uint64_t stop = std::min(end, (row + 1) * width);
      visit(
        static_cast<std::uint32_t>(mask.y + row),
        static_cast<std::uint32_t>(mask.x + (begin - row * width)),
        static_cast<std::uint32_t>(mask.x + (stop - row * width)));
      begin = stop;
    }
    begin = end;
    set = !set;
  }
}

/// Number of set pixels.
template<typename Mask>
std::uint64_t area(const Mask & mask)
{
  std::uint64_t total = 0;
  bool set = false;
  for (const std::uint32_t count : mask.counts) {
    total += set ? count : 0;
    set = !set;
  }
  return total;
}

/// Whether the source pixel (u, v) is set; false outside the rectangle. Costs one pass over the runs.
template<typename Mask>
bool contains(const Mask & mask, std::uint32_t u, std::uint32_t v)
{
  if (u < mask.x || v < mask.y || u - mask.x >= mask.width || v - mask.y >= mask.height) {
    return false;
  }
  const std::uint64_t pixel = std::uint64_t{v - mask.y} * mask.width + (u - mask.x);
  std::uint64_t end = 0;
  bool set = false;
  for (const std::uint32_t count : mask.counts) {
    end += count;
    if (pixel < end) {
      return set;
    }
    set = !set;
  }
  return false;
}

/// The smallest rectangle around the set pixels, or nothing if none is set.
template<typename Mask>
std::optional<Roi> bounds(const Mask & mask)
{
  std::uint32_t left = UINT32_MAX, top = UINT32_MAX, right = 0, bottom = 0;
  for_each_span(
    mask, [&](std::uint32_t v, std::uint32_t begin, std::uint32_t end) {
      left = std::min(left, begin);
      right = std::max(right, end);
      top = std::min(top, v);
      bottom = v + 1;
    });
  if (bottom == 0) {
    return std::nullopt;
  }
  return Roi{left, top, right - left, bottom - top};
}

/// The mask over the whole source image: `value` where set, 0 elsewhere. Throws DecodeError.
template<typename Mask>
Image<std::uint8_t> dense(
  const Mask & mask, std::uint32_t image_width, std::uint32_t image_height, std::uint8_t value = 255)
{
  validate(mask, image_width, image_height);
  Image<std::uint8_t> result{image_width, image_height, {}};
  result.data.assign(static_cast<std::size_t>(image_width) * image_height, 0);
  for_each_span(
    mask, [&](std::uint32_t v, std::uint32_t begin, std::uint32_t end) {
      const auto row = result.data.begin() + static_cast<std::ptrdiff_t>(v) * image_width;
      std::fill(row + begin, row + end, value);
    });
  return result;
}

/// Paint value_of(instance) over the masks of an InstanceArray; where masks overlap the better score wins.
template<typename T, typename Array, typename ValueOf>
Image<T> paint(const Array & array, ValueOf value_of)
{
  validate_size(array.width, array.height);
  for (const auto & instance : array.instances) {
    validate(instance.mask, array.width, array.height);
  }
  Image<T> result{array.width, array.height, {}};
  result.data.assign(static_cast<std::size_t>(array.width) * array.height, 0);
  for (auto i = array.instances.rbegin(); i != array.instances.rend(); ++i) {  // best first: drawn last
    const T value = value_of(*i);
    for_each_span(
      i->mask, [&](std::uint32_t v, std::uint32_t begin, std::uint32_t end) {
        const auto row = result.data.begin() + static_cast<std::ptrdiff_t>(v) * array.width;
        std::fill(row + begin, row + end, value);
      });
  }
  return result;
}

/// `number` as T. Throws DecodeError for 0, which means background, and for what does not fit.
template<typename T>
T map_value(const char * name, std::uint32_t number)
{
  constexpr std::uint32_t most = std::numeric_limits<T>::max();
  if (number == 0 || number > most) {
    throw DecodeError(name + (" " + std::to_string(number)) + "; expected 1 to " + std::to_string(most));
  }
  return static_cast<T>(number);
}

/// The instance id (1..n) at each pixel, 0 = background. Throws DecodeError.
template<typename Array>
Image<std::uint16_t> instance_map(const Array & array)
{
  return paint<std::uint16_t>(
    array, [](const auto & instance) {return map_value<std::uint16_t>("instance id", instance.id);});
}

/// The class id at each pixel, 0 = background. Throws DecodeError.
template<typename Array>
Image<std::uint8_t> class_map(const Array & array)
{
  return paint<std::uint8_t>(
    array, [](const auto & instance) {return map_value<std::uint8_t>("class id", instance.class_id);});
}

}  // namespace fassst_ros

#endif  // FASSST_ROS__DECODE_HPP_
