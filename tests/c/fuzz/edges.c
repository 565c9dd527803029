/* Edges of frames of any size and content. */

#include "fuzz.h"

#define MOST_PIXELS (1 << 12)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    input from = {bytes, size, 0};
    const int height = 1 + (int)draw(&from, 1), width = 1 + (int)draw(&from, 2) % (MOST_PIXELS / height);
    const int32_t wrong = draw_number(&from, 1);
    EXPECT(lcr_edges_scratch(wrong, 4) == 0 || (wrong >= 1 && wrong <= LCR_MOST_SIDE));
    const size_t pixels = (size_t)height * (size_t)width, room = lcr_edges_scratch(height, width);
    if (width > LCR_MOST_SIDE) {
        EXPECT(room == 0);
        return 0;
    }
    EXPECT(room > 0);
    uint8_t *frame = exactly(3 * pixels), *edges = exactly(pixels), *again = exactly(pixels);
    void *scratch = exactly(room);
    draw_bytes(&from, frame, 3 * pixels);
    UNWRITTEN(edges, pixels);
    UNWRITTEN(scratch, room);
    lcr_find_edges(frame, height, width, edges, scratch);
    memset(scratch, 0xA5, room);
    lcr_find_edges(frame, height, width, again, scratch);
    EXPECT(memcmp(edges, again, pixels) == 0);
    const int even = memcmp(frame, frame + 1, 3 * pixels - 1) == 0;
    for (size_t i = 0; i < pixels; i++) {
        EXPECT(edges[i] <= 1 && (!even || edges[i] == 0));
    }
    free(frame);
    free(edges);
    free(again);
    free(scratch);
    return 0;
}
