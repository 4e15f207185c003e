// Follows the embeddings topic from Node: npm install kafkajs && node reader.js 127.0.0.1:9092 embeddings GROUP
const { Kafka, logLevel } = require("kafkajs"); // reads committed records only, unless told otherwise

const [brokers, topic, groupId] = process.argv.slice(2);
const newest = new Map(); // bound it, or compare with the seq in your database

// The vectors of a user: put them into your database under the user, unless a higher seq is there.
async function put(user, seq, vectors) {
  console.log(["put", user, seq, vectors.length].join("\t"));
}

// The user was erased: delete what you hold.
async function erase(user) {
  console.log(["delete", user].join("\t"));
}

async function handle({ key, value, headers }) {
  const user = key ? key.toString() : "";
  if (!user) return;
  if (value === null) { // null means erased
    newest.delete(user);
    return erase(user);
  }
  const header = (name) => (headers[name] === undefined ? undefined : headers[name].toString());
  if (header("lurm-format") !== "1") return; // not ours, or of another version
  const seq = BigInt(header("seq")); // 64 bits
  if (newest.has(user) && seq < newest.get(user)) return; // read again after a newer one
  const [rows, width] = header("shape").split(",").map(Number); // vectors, width
  const vectors = new Float32Array(rows * width);
  const half = header("dtype") === "float16";
  for (let i = 0; i < vectors.length; i++) vectors[i] = half ? fromHalf(value.readUInt16LE(2 * i)) : value.readFloatLE(4 * i);
  await put(user, seq, vectors);
  newest.set(user, seq);
}

function fromHalf(bits) {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size = exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
  return bits & 0x8000 ? -size : size;
}

async function main() {
  const consumer = new Kafka({ brokers: brokers.split(","), logLevel: logLevel.ERROR }).consumer({ groupId });
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true }); // the topic holds everybody, not only who changes from now on
  // A message is resolved, and committed, when the handler returns; one that throws is given again.
  await consumer.run({ eachMessage: ({ message }) => handle(message) });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
