/* SHA-256 as FIPS 180-4 defines it. */

#include "lcr_internal.h"

#include <string.h>

#define BLOCK 64u

typedef struct hash {
    uint32_t words[8];
    uint8_t block[BLOCK];
    uint64_t bytes;
} hash;

/* The first 32 bits of the fractions of the cube roots of the first 64 primes. */
static const uint32_t constants[64] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};

static uint32_t rotate(uint32_t x, unsigned bits) {
    return (x >> bits) | (x << (32u - bits));
}

static void take_block(hash *sum) {
    uint32_t schedule[64], w[8];
    for (size_t i = 0; i < 16; i++) {
        const uint8_t *b = sum->block + 4 * i;
        schedule[i] = ((uint32_t)b[0] << 24) | ((uint32_t)b[1] << 16) | ((uint32_t)b[2] << 8) | (uint32_t)b[3];
    }
    for (size_t i = 16; i < 64; i++) {
        const uint32_t a = schedule[i - 15], b = schedule[i - 2];
        schedule[i] = schedule[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ (a >> 3)) + schedule[i - 7] +
                      (rotate(b, 17) ^ rotate(b, 19) ^ (b >> 10));
    }
    memcpy(w, sum->words, sizeof w);
    for (size_t i = 0; i < 64; i++) {
        const uint32_t choice = (w[4] & w[5]) ^ (~w[4] & w[6]);
        const uint32_t majority = (w[0] & w[1]) ^ (w[0] & w[2]) ^ (w[1] & w[2]);
        const uint32_t first =
            w[7] + (rotate(w[4], 6) ^ rotate(w[4], 11) ^ rotate(w[4], 25)) + choice + constants[i] + schedule[i];
        const uint32_t second = (rotate(w[0], 2) ^ rotate(w[0], 13) ^ rotate(w[0], 22)) + majority;
        memmove(w + 1, w, 7 * sizeof *w);
        w[4] += first;
        w[0] = first + second;
    }
    for (size_t i = 0; i < 8; i++) {
        sum->words[i] += w[i];
    }
}

static void add(hash *sum, const uint8_t *bytes, size_t size) {
    while (size > 0) {
        const size_t used = (size_t)(sum->bytes % BLOCK), left = BLOCK - used, count = size < left ? size : left;
        memcpy(sum->block + used, bytes, count);
        sum->bytes += count;
        bytes += count;
        size -= count;
        if (sum->bytes % BLOCK == 0) {
            take_block(sum);
        }
    }
}

void lcr_sha256(
    const uint8_t *first, size_t first_size, size_t zeros, const uint8_t *rest, size_t rest_size, uint8_t digest[32]) {
    static const uint8_t zero = 0, one = 0x80;
    hash sum = {
        {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u},
        {0},
        0};
    uint8_t length[8];
    add(&sum, first, first_size);
    for (size_t i = 0; i < zeros; i++) {
        add(&sum, &zero, 1);
    }
    add(&sum, rest, rest_size);
    const uint64_t bits = sum.bytes * 8;
    for (unsigned i = 0; i < 8; i++) {
        length[i] = (uint8_t)(bits >> (56u - 8u * i));
    }
    add(&sum, &one, 1);
    while (sum.bytes % BLOCK != BLOCK - sizeof length) {
        add(&sum, &zero, 1);
    }
    add(&sum, length, sizeof length);
    for (size_t i = 0; i < 32; i++) {
        digest[i] = (uint8_t)(sum.words[i / 4] >> (24u - 8u * (i % 4)));
    }
}
