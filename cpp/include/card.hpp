// What the JSON beside an exported file says of it: names, types, shapes and columns of all that goes in and out.
#pragma once
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace card {

// A value of JSON. Members keep their order, which is that of the inputs.
struct Json {
  std::string text;  // of a string, a number, true, false or null
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  const Json* find(const std::string& name) const {
    for (const auto& member : members)
      if (member.first == name) return &member.second;
    return nullptr;
  }
  const Json& at(const std::string& name) const {
    const Json* found = find(name);
    if (!found) throw std::runtime_error("the description has no \"" + name + "\"; export the surrogate again");
    return *found;
  }
};

class Reader {
 public:
  explicit Reader(const std::string& source) : text(source) {}

  Json value() {
    Json result;
    const char first = peek();
    if (first == '{') {
      separated('}', [&] {
        const std::string name = string();
        expect(':');
        result.members.emplace_back(name, value());
      });
    } else if (first == '[') {
      separated(']', [&] { result.items.push_back(value()); });
    } else if (first == '"') {
      result.text = string();
    } else {
      while (place < text.size() && (std::isalnum(static_cast<unsigned char>(text[place])) || std::string("+-.").find(text[place]) != std::string::npos))
        result.text += text[place++];
      if (result.text.empty()) fail();
    }
    return result;
  }

  void end() {
    while (place < text.size())
      if (!std::isspace(static_cast<unsigned char>(text[place++]))) fail();
  }

 private:
  const std::string& text;
  std::size_t place = 0;

  [[noreturn]] void fail() const { throw std::runtime_error("not readable as JSON at character " + std::to_string(place)); }

  char peek() {
    while (place < text.size() && std::isspace(static_cast<unsigned char>(text[place]))) ++place;
    if (place == text.size()) fail();
    return text[place];
  }

  void expect(char wanted) {
    if (peek() != wanted) fail();
    ++place;
  }

  template <class Part>
  void separated(char last, Part&& part) {
    ++place;
    if (peek() == last) {
      ++place;
      return;
    }
    for (;;) {
      part();
      const char next = peek();
      ++place;
      if (next == last) return;
      if (next != ',') fail();
    }
  }

  std::string string() {
    expect('"');
    std::string result;
    for (; place < text.size() && text[place] != '"'; ++place) {
      if (text[place] != '\\') {
        result += text[place];
        continue;
      }
      if (++place == text.size()) fail();
      const char escaped = text[place];
      if (escaped == 'u') {
        if (place + 4 >= text.size()) fail();
        const auto code = static_cast<unsigned>(std::strtoul(text.substr(place + 1, 4).c_str(), nullptr, 16));
        place += 4;
        if (code < 0x80) {
          result += static_cast<char>(code);
        } else if (code < 0x800) {
          result += static_cast<char>(0xC0 | (code >> 6));
          result += static_cast<char>(0x80 | (code & 0x3F));
        } else {
          result += static_cast<char>(0xE0 | (code >> 12));
          result += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
          result += static_cast<char>(0x80 | (code & 0x3F));
        }
      } else {
        result += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
      }
    }
    if (place == text.size()) fail();
    ++place;
    return result;
  }
};

struct Tensor {
  std::string name, type;
  std::vector<std::int64_t> shape;  // of one row
  std::vector<std::string> columns;

  std::size_t size() const {
    std::size_t result = 1;
    for (const auto length : shape) result *= static_cast<std::size_t>(length);
    return result;
  }
};

struct Card {
  std::vector<Tensor> inputs, outputs;
  double tolerance = 1e-5;

  static std::size_t width(const std::vector<Tensor>& tensors) {
    std::size_t result = 0;
    for (const auto& tensor : tensors) result += tensor.size();
    return result;
  }
  static std::vector<std::string> columns(const std::vector<Tensor>& tensors) {
    std::vector<std::string> result;
    for (const auto& tensor : tensors) result.insert(result.end(), tensor.columns.begin(), tensor.columns.end());
    return result;
  }
};

inline std::vector<Tensor> read_tensors(const Json& described) {
  std::vector<Tensor> result;
  for (const auto& member : described.members) {
    Tensor tensor{member.first, member.second.at("type").text, {}, {}};
    if (tensor.type != "float32") throw std::runtime_error(tensor.name + " is of type " + tensor.type + "; these programs know float32 only");
    for (const auto& length : member.second.at("shape").items) tensor.shape.push_back(std::atoll(length.text.c_str()));
    for (const auto& column : member.second.at("columns").items) tensor.columns.push_back(column.at("name").text);
    if (tensor.columns.size() != tensor.size()) {
      tensor.columns.clear();
      for (std::size_t k = 0; k < tensor.size(); ++k) tensor.columns.push_back(tensor.size() == 1 ? tensor.name : tensor.name + "_" + std::to_string(k));
    }
    result.push_back(tensor);
  }
  return result;
}

// The card of the entry point `forward` in a description, as `core.export.deployable.describe` writes it.
inline Card read(const Json& described) {
  const Json& point = described.at("entry_points").at("forward");
  return Card{read_tensors(point.at("inputs")), read_tensors(point.at("outputs")), std::strtod(described.at("tolerance").text.c_str(), nullptr)};
}

inline Card read_text(const std::string& text) {
  Reader reader(text);
  const Json described = reader.value();
  reader.end();
  return read(described);
}

// The card in `<path>.json`, which every export writes beside its file.
inline Card beside(const std::string& path) {
  const std::string name = path + ".json";
  std::ifstream file(name, std::ios::binary);
  if (!file) throw std::runtime_error("no " + name + ", which names inputs and outputs; export the surrogate again, and keep both files together");
  std::stringstream text;
  text << file.rdbuf();
  const std::string content = text.str();
  try {
    Reader reader(content);
    const Json report = reader.value();
    reader.end();
    return read(report.at("card"));
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(name + ": " + error.what());
  }
}

// Columns `first` to `first + width` of rows of `total` numbers, and back.
inline void take_columns(const float* rows, std::size_t count, std::size_t total, std::size_t first, std::size_t width, float* out) {
  for (std::size_t r = 0; r < count; ++r)
    for (std::size_t c = 0; c < width; ++c) out[r * width + c] = rows[r * total + first + c];
}
inline void put_columns(const float* part, std::size_t count, std::size_t total, std::size_t first, std::size_t width, float* rows) {
  for (std::size_t r = 0; r < count; ++r)
    for (std::size_t c = 0; c < width; ++c) rows[r * total + first + c] = part[r * width + c];
}

}  // namespace card
