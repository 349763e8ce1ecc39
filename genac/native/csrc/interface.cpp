// What Python compares with its own side of the boundary before it calls anything else.
#include <cstring>

#include "structs.h"

// Bytes of a struct of structs.h, or -1 where there is none of this name.
extern "C" Int genac_sizeof(const char *name) {
    static const struct {
        const char *name;
        Int size;
    } sizes[] = {
#define SIZE(type) {#type, sizeof(type)}
        SIZE(DecoderLayer), SIZE(DecoderModel), SIZE(DecoderBatch), SIZE(Texts),
        SIZE(Draws),        SIZE(LayerWeights), SIZE(TrainedLayer), SIZE(Segment),
        SIZE(TokenRows),    SIZE(Tree),
#undef SIZE
    };
    for (const auto &known : sizes)
        if (!strcmp(known.name, name)) return known.size;
    return -1;
}

// The number of an activation in the models' `activation`, or -1 where it is not computed.
extern "C" Int genac_activation(const char *name) {
    if (!strcmp(name, "silu")) return SILU;
    if (!strcmp(name, "gelu_tanh")) return GELU_TANH;
    if (!strcmp(name, "gelu")) return GELU;
    return -1;
}

// Whether OpenMP runs the threads; std::thread does otherwise.
extern "C" Int genac_openmp() {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}
