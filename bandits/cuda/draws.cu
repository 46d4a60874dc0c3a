// Counter-based draws: twins of bandits.draws, keyed alike. All but the tails of the normal quantile, which go
// through the device's logarithm, are the same bits.

// The finaliser of SplitMix64 (bandits.hashing.mix).
__device__ inline u64 mix(u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

// A seed and a stream as the offset and the odd factor that turn a key into its bits.
struct Stream {
    u64 offset, factor;
};

__device__ inline Stream stream_of(u64 seed, u64 number) {
    const u64 golden = 0x9E3779B97F4A7C15ULL;
    Stream stream;
    stream.offset = mix(mix(seed + golden) + number * golden);
    stream.factor = mix(stream.offset + golden) | 1;
    return stream;
}

__device__ inline u64 bits_of(Stream stream, u64 key) { return mix(key * stream.factor + stream.offset); }

__device__ inline double uniform_of(Stream stream, u64 key) {
    return ((double)(bits_of(stream, key) >> 12) + 0.5) * (1.0 / 4503599627370496.0);
}

// Inverse normal distribution function of 0 < y < 1 (Cephes ndtri, Moshier 1989), as bandits.numba_draws has it.
__device__ inline double normal_quantile(double y) {
    const double tail = 0.13533528323661269189, root_2_pi = 2.50662827463100050242;
    bool lower = true;
    if (y > 1.0 - tail) {
        y = 1.0 - y;
        lower = false;
    }
    if (y > tail) {
        y -= 0.5;
        const double q = y * y;
        double p = -5.99633501014107895267e1 * q + 9.80010754185999661536e1;
        p = (p * q + -5.66762857469070293439e1) * q + 1.39312609387279679503e1;
        p = p * q + -1.23916583867381258016e0;
        double r = (q + 1.95448858338141759834e0) * q + 4.67627912898881538453e0;
        r = (r * q + 8.63602421390890590575e1) * q + -2.25462687854119370527e2;
        r = (r * q + 2.00260212380060660359e2) * q + -8.20372256168333339912e1;
        r = (r * q + 1.59056225126211695515e1) * q + -1.18331621121330003142e0;
        return (y + y * (q * p / r)) * root_2_pi;
    }
    double x = sqrt(-2.0 * log(y));
    const double z = 1.0 / x;
    double p, r;
    if (x < 8.0) {
        p = (4.05544892305962419923e0 * z + 3.15251094599893866154e1) * z + 5.71628192246421288162e1;
        p = (p * z + 4.40805073893200834700e1) * z + 1.46849561928858024014e1;
        p = (p * z + 2.18663306850790267539e0) * z + -1.40256079171354495875e-1;
        p = (p * z + -3.50424626827848203418e-2) * z + -8.57456785154685413611e-4;
        r = (z + 1.57799883256466749731e1) * z + 4.53907635128879210584e1;
        r = (r * z + 4.13172038254672030440e1) * z + 1.50425385692907503408e1;
        r = (r * z + 2.50464946208309415979e0) * z + -1.42182922854787788574e-1;
        r = (r * z + -3.80806407691578277194e-2) * z + -9.33259480895457427372e-4;
    } else {
        p = (3.23774891776946035970e0 * z + 6.91522889068984211695e0) * z + 3.93881025292474443415e0;
        p = (p * z + 1.33303460815807542389e0) * z + 2.01485389549179081538e-1;
        p = (p * z + 1.23716634817820021358e-2) * z + 3.01581553508235416007e-4;
        p = (p * z + 2.65806974686737550832e-6) * z + 6.23974539184983293730e-9;
        r = (z + 6.02427039364742014255e0) * z + 3.67983563856160859403e0;
        r = (r * z + 1.37702099489081330271e0) * z + 2.16236993594496635890e-1;
        r = (r * z + 1.34204006088543189037e-2) * z + 3.28014464682127739104e-4;
        r = (r * z + 2.89247864745380683936e-6) * z + 6.79019408009981274425e-9;
    }
    x = x - log(x) / x - z * p / r;
    return lower ? -x : x;
}
