// Two models in one program: each classifies every image, then both vote.
//
//   two_models images.u8 labels.u8      images of 28x28 bytes one after the other, and one byte for the label of each

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <type_traits>
#include <vector>

#include "digits_cnn.h"
#include "digits_mobilenet.h"

namespace {

constexpr std::size_t kPixels = 28 * 28;
using Image = std::array<float, kPixels>;
using Logits = std::array<float, 10>;

static_assert(digits_cnn_STATE_BYTES == 0 && digits_mobilenet_STATE_BYTES == 0);

// The models run one after the other, so one arena serves both.
constexpr std::size_t kArena = std::max<std::size_t>(digits_cnn_ARENA_BYTES, digits_mobilenet_ARENA_BYTES);
constexpr std::size_t kAlignment = std::max<std::size_t>(digits_cnn_ALIGNMENT, digits_mobilenet_ALIGNMENT);
alignas(kAlignment) std::array<unsigned char, std::max<std::size_t>(kArena, 1)> arena;

// What a model makes of its weights once, before its first run: 0 bytes for many models, whose functions then do not ask for it.
template <std::size_t kBytes>
struct alignas(kAlignment) Prepared {
  std::array<unsigned char, std::max<std::size_t>(kBytes, 1)> bytes;
};
Prepared<digits_cnn_PREPARED_BYTES> cnn_prepared;
Prepared<digits_mobilenet_PREPARED_BYTES> mobilenet_prepared;

template <typename Run>
std::int32_t classify(Run run, const Image& image, Logits& logits, void* prepared) {
  if constexpr (std::is_invocable_v<Run, const float*, float*, void*>) {
    static_cast<void>(prepared);
    return run(image.data(), logits.data(), arena.data());
  } else {
    return run(image.data(), logits.data(), arena.data(), prepared);
  }
}

std::vector<std::uint8_t> bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::size_t best(const Logits& logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

bool can_run() {
  const char* missing = "";
  if (digits_cnn_check_cpu(&missing) == 0 && digits_mobilenet_check_cpu(&missing) == 0) return true;
  std::cerr << "this processor lacks " << missing << "\n";
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " images.u8 labels.u8\n";
    return 2;
  }
  const auto pixels = bytes_of(argv[1]);
  const auto labels = bytes_of(argv[2]);
  if (labels.empty() || pixels.size() != labels.size() * kPixels) {
    std::cerr << argv[1] << " must hold " << kPixels << " bytes for each byte of " << argv[2] << "\n";
    return 3;
  }
  if (!can_run()) return 6;
  if (digits_cnn_prepare(digits_cnn_weights, cnn_prepared.bytes.data()) != digits_cnn_OK) return 1;
  if (digits_mobilenet_prepare(digits_mobilenet_weights, mobilenet_prepared.bytes.data()) != digits_mobilenet_OK) return 1;

  std::size_t cnn_right = 0, mobilenet_right = 0, vote_right = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    Image image{};
    for (std::size_t p = 0; p < kPixels; ++p) image[p] = static_cast<float>(pixels[i * kPixels + p]) / 255.0F;

    Logits cnn{}, mobilenet{}, vote{};
    if (const auto code = classify(digits_cnn_run, image, cnn, cnn_prepared.bytes.data()); code != digits_cnn_OK) {
      std::cerr << "digits_cnn: " << digits_cnn_strerror(code) << "\n";
      return 1;
    }
    if (const auto code = classify(digits_mobilenet_run, image, mobilenet, mobilenet_prepared.bytes.data()); code != digits_mobilenet_OK) {
      std::cerr << "digits_mobilenet: " << digits_mobilenet_strerror(code) << "\n";
      return 1;
    }
    std::transform(cnn.begin(), cnn.end(), mobilenet.begin(), vote.begin(), [](float a, float b) { return a + b; });
    cnn_right += best(cnn) == labels[i];
    mobilenet_right += best(mobilenet) == labels[i];
    vote_right += best(vote) == labels[i];
  }
  std::cout << "digits_cnn " << cnn_right << "\ndigits_mobilenet " << mobilenet_right << "\nboth " << vote_right << "\nof " << labels.size()
            << "\n";
  return 0;
}
