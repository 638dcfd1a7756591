// The microphone's samples as 16-bit integers, in pieces of about 64 ms.
class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.kept = [];
    this.size = 0;
  }

  process(inputs) {
    const channel = inputs[0][0];
    if (!channel) return true;
    this.kept.push(channel.slice());
    this.size += channel.length;
    if (this.size >= 1024) {
      const samples = new Int16Array(this.size);
      let place = 0, peak = 0;
      for (const block of this.kept) {
        for (const value of block) {
          const kept = Math.max(-1, Math.min(1, value));
          peak = Math.max(peak, Math.abs(kept));
          samples[place++] = Math.round(kept * 32767);
        }
      }
      this.port.postMessage({ samples: samples.buffer, peak }, [samples.buffer]);
      this.kept = [];
      this.size = 0;
    }
    return true;
  }
}

registerProcessor("capture", Capture);
