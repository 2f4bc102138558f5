// Looks a name up, asks a web server for its page, waits, and asks again: the second time from Java's own cache of names.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.Socket;

public class LongCache {
    public static void main(String[] arguments) throws Exception {
        try {
            ask(arguments);
            Thread.sleep(1000 * Long.parseLong(arguments[2]));
            ask(arguments);
        } catch (java.io.IOException failure) {
            System.out.println(failure);
            System.exit(1);
        }
    }

    private static void ask(String[] arguments) throws Exception {
        try (Socket socket = new Socket(InetAddress.getByName(arguments[0]), Integer.parseInt(arguments[1]))) {
            socket.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes());
            BufferedReader page = new BufferedReader(new InputStreamReader(socket.getInputStream()));
            String line = page.readLine();
            while (line != null && !line.startsWith("hello")) {
                line = page.readLine();
            }
            System.out.println(line);
        }
    }
}
