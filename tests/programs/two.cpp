// Two models in one program, run at the same time on one thread pool:   both INPUT OUTPUT

#include <cstdio>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "digits_cnn.h"
#include "digits_transformer.h"
#include "edgec_rt.h"

namespace {

template <std::size_t kBytes>
struct alignas(64) Arena {
  unsigned char bytes[kBytes];
};

// A model with prepared memory takes it as its last argument.
template <typename Run>
int run(Run model, const unsigned char* weights, const edgec_rt* rt, const float* image, float* logits, void* arena, void* prepared) {
  if constexpr (std::is_invocable_v<Run, const void*, const edgec_rt*, const float*, float*, void*>) return model(weights, rt, image, logits, arena);
  else return model(weights, rt, image, logits, arena, prepared);
}

std::vector<float> read(const char* path) {
  std::vector<float> data(28 * 28);
  std::FILE* file = std::fopen(path, "rb");
  if (file == nullptr || std::fread(data.data(), sizeof(float), data.size(), file) != data.size()) data.clear();
  if (file != nullptr) std::fclose(file);
  return data;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::vector<float> image = read(argv[1]);
  if (image.empty()) return 3;
  if (digits_cnn_check_cpu(nullptr) != digits_cnn_OK || digits_transformer_check_cpu(nullptr) != digits_transformer_OK) return 4;

  edgec_rt* rt = edgec_rt_create(3);
  std::vector<float> cnn(10), transformer(10);
  int wrong = 0, others_wrong = 0;
  std::thread other([&] {
    const auto arena = std::make_unique<Arena<digits_transformer_ARENA_BYTES>>();
    for (int i = 0; i < 20; ++i)
      others_wrong |= digits_transformer_run_with(digits_transformer_weights, rt, image.data(), transformer.data(), arena->bytes);
  });
  const auto arena = std::make_unique<Arena<digits_cnn_ARENA_BYTES>>();
  const auto prepared = std::make_unique<Arena<digits_cnn_PREPARED_BYTES + 1>>();
  wrong |= digits_cnn_prepare(digits_cnn_weights, prepared->bytes);
  for (int i = 0; i < 20; ++i)
    wrong |= run(digits_cnn_run_with, digits_cnn_weights, rt, image.data(), cnn.data(), arena->bytes, prepared->bytes);
  other.join();
  edgec_rt_destroy(rt);
  if (wrong != 0 || others_wrong != 0) return 5;

  std::FILE* file = std::fopen(argv[2], "wb");
  if (file == nullptr) return 6;
  std::fwrite(cnn.data(), sizeof(float), cnn.size(), file);
  std::fwrite(transformer.data(), sizeof(float), transformer.size(), file);
  return std::fclose(file) == 0 ? 0 : 7;
}
